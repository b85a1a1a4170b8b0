package policy_test

import (
	"fmt"

	"github.com/metricsgate/metricsgate/policy"
)

// Somebody is signed in whose account holds no choice, in a browser whose
// telemetry is switched off.
func ExampleRules_Decide() {
	decision := policy.DefaultRules().Decide(policy.Verified, policy.Unset, policy.SignalOptedOut)
	fmt.Println(decision.Action, decision.Reason)
	fmt.Println("into the profile:", decision.WriteBack)
	// Output:
	// block signal
	// into the profile: true
}

// Nobody is signed in, and the beacon names two accounts. The first has allowed
// metrics, which allows nothing here; the second has opted out.
func ExampleRules_DecideNamed() {
	rules := policy.DefaultRules()
	decision := rules.Decide(policy.NoSession, policy.Unknown, policy.SignalNone)
	fmt.Println(decision.Action, decision.Reason)
	for _, preference := range []policy.Preference{policy.Allowed, policy.OptedOut} {
		decision = rules.DecideNamed(decision, preference)
		fmt.Println(decision.Action, decision.Reason)
	}
	fmt.Println("by a name alone:", decision.ByName)
	// Output:
	// collect default
	// collect default
	// block preference
	// by a name alone: true
}
