import { serve } from "../page.js";
import posthog from "posthog-js";

serve({
	start: (host) => posthog.init("phc_key", { api_host: host, defaults: "2025-05-24", disable_web_experiments: false }),
	track: (event) => posthog.capture(event),
	identify: (account) => posthog.identify(account),
	reset: () => posthog.reset(),
	flag: (name) => posthog.getFeatureFlag(name, { send_event: false }) || "",
});
