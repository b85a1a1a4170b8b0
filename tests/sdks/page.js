// What every page here has: a clock that goes on only when the test says so and
// nothing is under way, so that minutes of an SDK's timers pass at once and none
// of its time limits is met because a machine is slow; and a count of what the
// page has sent. Import it before the SDK.
import FakeTimers from "@sinonjs/fake-timers";

// Some SDKs say nothing of what a robot does.
Object.defineProperty(Navigator.prototype, "webdriver", { get: () => false });
const agent = navigator.userAgent.replace("Headless", "");
Object.defineProperty(Navigator.prototype, "userAgent", { get: () => agent });

// A page here is seen, though the tab of another is in front: SDKs send their
// queues when a page is hidden, and some then once more.
Object.defineProperty(Document.prototype, "visibilityState", { get: () => "visible" });
Object.defineProperty(Document.prototype, "hidden", { get: () => false });
addEventListener("visibilitychange", (event) => event.stopImmediatePropagation(), true);

const realSetTimeout = window.setTimeout.bind(window);
const clock = FakeTimers.install({
	now: Date.now(),
	toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "Date"],
});

let sent = 0;
let underWay = 0;
const complaints = [];

// A proxy of a function looks as native as the function does, which some SDKs
// look at.
const around = (object, name, apply) => {
	object[name] = new Proxy(object[name], { apply });
};

around(window, "fetch", (fetch, self, given) => {
	sent++;
	underWay++;
	const answer = Reflect.apply(fetch, self, given);
	answer.then((response) => response.clone().text()).catch(() => {}).finally(() => underWay--);
	return answer;
});
around(XMLHttpRequest.prototype, "send", (send, self, given) => {
	sent++;
	underWay++;
	self.addEventListener("loadend", () => underWay--);
	return Reflect.apply(send, self, given);
});
around(navigator, "sendBeacon", (sendBeacon, self, given) => {
	const taken = Reflect.apply(sendBeacon, navigator, given);
	if (taken) sent++;
	return taken;
});
const src = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");
Object.defineProperty(HTMLImageElement.prototype, "src", {
	...src,
	set(url) {
		sent++;
		src.set.call(this, url);
	},
});

for (const level of ["error", "warn"]) {
	around(console, level, (write, self, given) => {
		complaints.push(level + ": " + given.map(String).join(" "));
		return Reflect.apply(write, self, given);
	});
}
addEventListener("error", (event) => complaints.push("error: " + (event.message || event.target)), true);
addEventListener("unhandledrejection", (event) => complaints.push("error: unhandled " + event.reason));

const turn = () => new Promise((resolve) => realSetTimeout(resolve, 0));

// settle waits for the answers to what was sent, and for what they bring about.
const settle = async () => {
	do {
		for (let i = 0; i < 3; i++) await turn();
	} while (underWay > 0);
};

// pass lets so many milliseconds of the page's time pass.
const pass = async (milliseconds) => {
	let over = false;
	window.setTimeout(() => { over = true; }, milliseconds);
	await settle();
	while (!over) {
		const before = sent;
		await clock.nextAsync();
		if (sent > before || underWay > 0 || over) await settle();
	}
	return true;
};

// serve hands an SDK to the test. It has start(host), track(event), and where
// the SDK knows them identify(account), reset() and flag(name).
export const serve = (sdk) => {
	const begin = async () => {
		let started = false;
		(async () => sdk.start(location.origin + document.documentElement.dataset.prefix))()
			.catch((problem) => complaints.push("error: " + problem))
			.finally(() => { started = true; });
		for (let i = 0; !started && i < 300; i++) await pass(100);
		if (!started) complaints.push("error: it did not start within half a minute");
		return true;
	};
	Object.assign(window, { sdk, pass, started: begin(), state: () => ({ sent, complaints }) });
};
