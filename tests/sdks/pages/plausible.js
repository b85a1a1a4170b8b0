import { serve } from "../page.js";
import { init, track } from "@plausible-analytics/tracker";

serve({
	start: (host) => init({ domain: "example.org", endpoint: host + "/api/event" }),
	track: (event) => track(event, {}),
});
