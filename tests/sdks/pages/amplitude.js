import { serve } from "../page.js";
import * as amplitude from "@amplitude/analytics-browser";
import { Experiment } from "@amplitude/experiment-js-client";

let experiment;
serve({
	start: async (host) => {
		await amplitude.init("key", { serverUrl: host + "/2/httpapi", remoteConfig: { serverUrl: host + "/config" }, autocapture: false }).promise;
		experiment = Experiment.initialize("client-key", { serverUrl: host, flagsServerUrl: host, fetchOnStart: true });
		await experiment.start({ device_id: "device" });
	},
	track: (event) => { amplitude.track(event); },
	identify: (account) => amplitude.setUserId(account),
	reset: () => amplitude.reset(),
	flag: (name) => experiment.variant(name).value || "",
});
