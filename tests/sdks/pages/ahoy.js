import { serve } from "../page.js";
import ahoy from "ahoy.js";

serve({
	start: (host) => ahoy.configure({ visitsUrl: host + "/visits", eventsUrl: host + "/events" }),
	track: (event) => ahoy.track(event),
	reset: () => ahoy.reset(),
});
