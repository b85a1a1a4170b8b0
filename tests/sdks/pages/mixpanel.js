import { serve } from "../page.js";
import mixpanel from "mixpanel-browser";

serve({
	start: (host) => mixpanel.init("token", { api_host: host, flags: true }),
	track: (event) => mixpanel.track(event),
	identify: (account) => mixpanel.identify(account),
	reset: () => mixpanel.reset(),
	flag: (name) => mixpanel.flags.get_variant_value_sync(name, ""),
});
