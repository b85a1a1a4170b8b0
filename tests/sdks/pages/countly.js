import { serve } from "../page.js";
import Countly from "countly-sdk-web";

serve({
	start: (host) => {
		Countly.init({ app_key: "key", url: host });
		Countly.track_sessions();
	},
	track: (event) => Countly.add_event({ key: event }),
	identify: (account) => Countly.set_id(account),
});
