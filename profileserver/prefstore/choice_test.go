package prefstore

import (
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/policy"
)

// TestWhatIsNoChoiceIsNotRecorded: an unknown preference has no stored form, and
// must not become another.
func TestWhatIsNoChoiceIsNotRecorded(t *testing.T) {
	t.Parallel()
	inEachStore(t, func(t *testing.T, p *place) {
		store := p.open(t, 0)
		for name, test := range map[string]struct {
			choice Choice
			want   string
		}{
			"no preference":  {Choice{Source: SourceUser}, "an unknown preference is not a choice"},
			"another source": {Choice{Preference: policy.Allowed, Source: "somebody"}, "the source of a choice is not user, browser or admin"},
		} {
			_, came, err := store.Set(t.Context(), "u", test.choice)
			if came != Unchanged || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, %v", name, came, err)
			}
			rows := only(Row{UID: "before", Preference: policy.OptedOut}, Row{UID: "u", Preference: test.choice.Preference, Source: test.choice.Source})
			done, err := store.Import(t.Context(), rows, nil)
			if done.Read != 1 || err == nil || !strings.Contains(err.Error(), "row 2: "+test.want) {
				t.Errorf("%s, imported: %v, %v", name, done, err)
			}
		}
		if held := mustGet(t, store, "u"); held != (Record{Preference: policy.Unset, secret: held.secret}) || !held.Changed().IsZero() {
			t.Errorf("held %v", held)
		}
		if _, _, err := store.Set(t.Context(), "u", Choice{Preference: policy.Allowed}); err != nil {
			t.Error(err)
		}
		if held := mustGet(t, store, "u"); held.Source != SourceAdmin || held.Changed().IsZero() {
			t.Errorf("by default: %v", held)
		}
	})
}
