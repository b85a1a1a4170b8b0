import { serve } from "../page.js";
import MatomoTracker from "matomo-tracker-react-native/src/MatomoTracker.js";

let tracker;
serve({
	start: (host) => { tracker = new MatomoTracker({ urlBase: host, siteId: 1 }); },
	track: (event) => { tracker.trackEvent({ category: "test", action: event }); },
	identify: (account) => { tracker.userId = account; },
	reset: () => { tracker.userId = undefined; },
});
