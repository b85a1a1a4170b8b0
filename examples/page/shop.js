// The page of the shop: has three SDKs, sees each of their beacons leave, and
// finds out what became of it.

import { $, act, addRow, ask, count, inWords, labelsOf, me, pause, people, readCounters, say, start } from './demo.js';

// The SDKs by where they send, and what a beacon of each is about.
const sdks = {
	'/stats/api/event': { name: 'Plausible', about: (body) => JSON.parse(body).n },
	'/umami/api/send': { name: 'umami', about: (body) => JSON.parse(body).payload.name ?? (JSON.parse(body).type === 'identify' ? 'identify' : 'pageview') },
	'/ahoy/visits': { name: 'Ahoy', about: () => 'visit' },
	'/ahoy/events': { name: 'Ahoy', about: (body) => JSON.parse(body.get('events_json'))[0].name },
};

// ---- Seeing beacons leave -----------------------------------------------------

const waiting = []; // beacons whose fate is not known yet

function left(address, body) {
	const { pathname } = new URL(address, location.href);
	const sdk = sdks[pathname];
	if (!sdk) return;
	const name = `${sdk.name}: ${sdk.about(body)}`;
	waiting.push({ name, path: pathname, at: performance.now(), row: addRow(name, `POST ${pathname}`, 'Its server') });
	count('sent');
	const held = typeof body === 'string' ? JSON.parse(body) : Object.fromEntries(body);
	$('payload').textContent = `POST ${pathname}\n\n${JSON.stringify(held, null, 2)}`;
}

// before has a function of the browser tell of a beacon, and do its work then.
function before(owner, name, tell) {
	const work = owner[name];
	owner[name] = function (...given) {
		tell.apply(this, given);
		return work.apply(this, given);
	};
}

const opened = new WeakMap();
before(window, 'fetch', (address, options) => options?.method === 'POST' && left(address, options.body));
before(Navigator.prototype, 'sendBeacon', left);
before(XMLHttpRequest.prototype, 'open', function (method, address) {
	opened.set(this, address);
});
before(XMLHttpRequest.prototype, 'send', function (body) {
	left(opened.get(this), body);
});

// ---- Finding out what became of them --------------------------------------------

let counted; // the gate's counters, as far as they were told to a beacon
const began = Date.now() / 1000;
const logged = new Set(); // lines of the log that were told to a beacon

// newDecisions tells the beacons of each route what the gate decided, in the
// order in which they left.
async function newDecisions() {
	for (const [labels, total] of await readCounters()) {
		const decision = labelsOf(labels);
		for (let n = counted.get(labels) ?? 0; n < total; n++) {
			const beacon = decision.gate === 'shop' && waiting.find((beacon) => beacon.path === decision.route && !beacon.decision);
			if (!beacon) continue;
			beacon.decision = decision;
			beacon.row.gate(...inWords(true, decision));
		}
		counted.set(labels, total);
	}
}

// newArrivals does the same with what the SDKs' servers got.
async function newArrivals() {
	const log = await ask('/demo/shop.log', { headers: { Range: 'bytes=-65536' } });
	for (const line of (await log.text()).split('\n')) {
		let entry;
		try {
			entry = JSON.parse(line);
		} catch {
			continue; // the first one is cut, and the last one empty
		}
		if (entry.ts < began || logged.has(line)) continue;
		logged.add(line);
		const beacon = waiting.find((beacon) => beacon.path === entry.request.uri && beacon.decision?.decision !== 'block' && !beacon.arrived);
		if (beacon) beacon.arrived = true;
	}
}

// watch shows the fate of each beacon as soon as it is known. Nothing can be
// waited for where nothing should arrive; half a second is long on one machine.
async function watch() {
	for (;;) {
		await pause(100);
		if (waiting.length === 0) continue;
		try {
			await newDecisions();
			await newArrivals();
		} catch {
			continue; // the page goes on by itself when the gate is back
		}
		for (const beacon of [...waiting]) {
			const age = performance.now() - beacon.at;
			const stopped = beacon.decision?.decision === 'block';
			if (beacon.arrived) beacon.row.server('good', 'received', 'it is in the log');
			else if (stopped && age > 500) beacon.row.server('stop', 'not received', 'no trace in the log');
			else if (age > 15000) beacon.row.server('odd', 'not received', 'not in the log, though nothing stopped it');
			else continue;
			if (!beacon.decision) continue;
			count(beacon.arrived ? 'arrived' : 'stopped');
			waiting.splice(waiting.indexOf(beacon), 1);
			say(`${beacon.name}. ${beacon.row.words()}.`);
		}
	}
}

// ---- The SDKs -------------------------------------------------------------------

// load begins with the counters as they are before the first beacon.
async function load() {
	counted = await readCounters();
	watch();
	const [plausible, { default: ahoy }] = await Promise.all([import('./sdk/plausible.js'), import('./sdk/ahoy.js')]);
	plausible.init({ domain: 'shop.example', endpoint: '/stats/api/event', captureOnLocalhost: true });
	await new Promise((done) => {
		const umami = Object.assign(document.createElement('script'), { src: 'sdk/umami.js', onload: done });
		umami.dataset.websiteId = '94db1cb1-74f4-4a40-ad6c-962362670409';
		umami.dataset.hostUrl = '/umami';
		// Without this umami sends no cookie, and everybody looks like nobody.
		umami.dataset.fetchCredentials = 'same-origin';
		document.head.append(umami);
	});

	// umami names the account, the others nobody.
	const identify = () => window.umami.identify(people[me.who].uid === 'none' ? '' : people[me.who].uid);
	me.changed = identify;
	if (me.who !== 'nobody') identify();

	for (const button of document.querySelectorAll('[data-event]')) {
		button.addEventListener('click', () => {
			plausible.track(button.dataset.event, {});
			window.umami.track(button.dataset.event);
			ahoy.track(button.dataset.event);
		});
	}
}

act(start);
act(load);
