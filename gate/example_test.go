package gate_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/metricsgate/metricsgate/gate"
	"github.com/metricsgate/metricsgate/policy"
)

// A gate in front of an application that is a plain http.Handler. What it
// decides is told to the observer.
func Example() {
	g, err := gate.New(gate.Config{
		Routes: []gate.Route{{
			Methods: []string{http.MethodPost}, Path: "/beacon",
			Answer: &gate.Answer{Status: http.StatusOK, ContentType: "application/json", Body: `{"ok":true}`},
		}},
		Observer: gate.Observer{Decided: func(_ *http.Request, _ int, d policy.Decision, _ bool) {
			fmt.Println(d.Action, d.Reason)
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	application := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		fmt.Println("the application gets a beacon")
	}))
	for _, signal := range []string{"true", "false"} {
		beacon := httptest.NewRequest(http.MethodPost, "/beacon", nil)
		beacon.Header.Set("Metrics-Optout", signal)
		application.ServeHTTP(httptest.NewRecorder(), beacon)
	}
	// Output:
	// block signal
	// collect default
	// the application gets a beacon
}

// Takes says which requests a route stands for.
func ExampleRoute_Takes() {
	route := gate.Route{Methods: []string{http.MethodPost}, Path: "/beacon"}
	fmt.Println(route.Takes(http.MethodPost, "/Beacon/"), route.Takes(http.MethodGet, "/beacon"))
	// Output: true false
}
