import { serve } from "../page.js";
import { AnalyticsBrowser } from "@segment/analytics-next";

let analytics;
serve({
	start: (host) => {
		analytics = AnalyticsBrowser.load({ writeKey: "key", cdnURL: host }, {
			integrations: { "Segment.io": { apiHost: host.replace(/^https:\/\//, "") + "/v1" } },
		});
	},
	track: (event) => { analytics.track(event); },
	identify: (account) => { analytics.identify(account); },
	reset: () => { analytics.reset(); },
});
