import { serve } from "../page.js";
import { RudderAnalytics } from "@rudderstack/analytics-js/bundled";

const rudder = new RudderAnalytics();
serve({
	start: (host) => rudder.load("key", host, { configUrl: host, plugins: [] }),
	track: (event) => rudder.track(event),
	identify: (account) => rudder.identify(account),
	reset: () => rudder.reset(),
});
