import { serve } from "../page.js";
import { onCLS, onFCP, onINP, onLCP, onTTFB } from "web-vitals";

let url;
serve({
	start: (host) => {
		url = host;
		for (const on of [onCLS, onFCP, onINP, onLCP, onTTFB]) {
			on((metric) => navigator.sendBeacon(host, JSON.stringify(metric)), { reportAllChanges: true });
		}
	},
	track: (event) => { navigator.sendBeacon(url, JSON.stringify({ name: event })); },
});
