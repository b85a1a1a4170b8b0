import { serve } from "../page.js";
import * as Sentry from "@sentry/browser";

serve({
	start: (host) => { Sentry.init({ dsn: "https://key@o1.ingest.sentry.io/1", tunnel: host, maxBreadcrumbs: 0 }); },
	track: (event) => { Sentry.captureMessage(event); },
	identify: (account) => Sentry.setUser({ id: account }),
	reset: () => Sentry.setUser(null),
});
