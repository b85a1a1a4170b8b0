import { serve } from "../page.js";
import Glean from "@mozilla/glean/web";
import PingType from "@mozilla/glean/private/ping";
import StringMetric from "@mozilla/glean/private/metrics/string";

const ping = new PingType({ name: "test", includeClientId: true, sendIfEmpty: false, reasonCodes: [] });
const happened = new StringMetric({ category: "test", name: "happened", sendInPings: ["test"], lifetime: "ping", disabled: false });
serve({
	start: (host) => Glean.initialize("app", true, { serverEndpoint: host }),
	track: (event) => { happened.set(event); ping.submit(); },
	withdraw: () => Glean.setUploadEnabled(false),
});
