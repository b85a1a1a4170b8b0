import { serve } from "../page.js";
import { newTracker, setUserId, trackStructEvent } from "@snowplow/browser-tracker";

serve({
	start: (host) => newTracker("sp", host, { appId: "app" }),
	track: (event) => trackStructEvent({ category: "test", action: event }),
	identify: (account) => setUserId(account),
	reset: () => setUserId(null),
});
