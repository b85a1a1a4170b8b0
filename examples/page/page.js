// The page of Firefox Accounts: sends what one of its pages sends, and finds out
// what became of each request.

import { $, act, addRow, ask, count, counts, inWords, labelsOf, me, people, readCounters, readPreference, reasons, say, show, start, until } from './demo.js';

let lastMark = 0;
let flushed = false;
// newDecision gives the labels of the counter for the route that moved.
async function newDecision(before, route) {
	for (const [labels, count] of await readCounters()) {
		if (count === (before.get(labels) ?? 0)) continue;
		const decision = labelsOf(labels);
		if (decision.route === route) return decision;
	}
	return null;
}

// hasArrived looks for a request at the end of the content server's log.
async function hasArrived(mark) {
	const log = await ask('/demo/content-server.log', { headers: { Range: 'bytes=-32768' } });
	return (await log.text()).includes(`beacon=${mark}`);
}

// ---- What a Firefox Accounts page sends --------------------------------------

const hex = (bytes) =>
	Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, '0')).join('');

const page = { flowId: hex(32), flowBeginTime: Date.now(), deviceId: hex(16), uniqueUserId: crypto.randomUUID?.() ?? 'none' };

// navigationTiming is the first flush's alone: the browser's milliseconds since
// the navigation began, null for what did not happen.
function navigationTiming() {
	const timing = performance.timing.toJSON();
	for (const step in timing) timing[step] = timing[step] ? timing[step] - performance.timing.navigationStart : null;
	return timing;
}

// flush is the body of a metrics beacon, of a visitor who signs up for Sync or
// of one who has an account.
function flush(uid) {
	const now = Date.now();
	const known = uid !== 'none';
	const duration = now - performance.timing.navigationStart;
	const happened = known
		? ['loaded', 'flow.begin', 'screen.signin', 'flow.signin.view', 'flow.signin.engage', 'flow.signin.submit', 'signin.success']
		: ['signup.refresh', 'flow.begin', 'screen.signup', 'loaded', 'flow.signup.view', 'experiment.sendSms.treatment']
				.concat(['flow.signup.engage', 'flow.signup.submit', 'signup.success']);
	const body = {
		broker: known ? 'base' : 'fx-desktop-v3',
		context: known ? 'web' : 'fx_desktop_v3',
		deviceId: page.deviceId,
		duration,
		entrypoint: 'abouthome',
		events: happened.map((type, i) => ({ type, offset: Math.round((duration * (i + 1)) / (happened.length + 1)) })),
		experiments: [{ choice: 'sendSms', group: 'treatment' }],
		flowBeginTime: page.flowBeginTime,
		flowId: page.flowId,
		flushTime: now,
		isSampledUser: true,
		lang: 'en',
		marketing: [],
		migration: 'none',
		numStoredAccounts: known ? 1 : 0,
		referrer: 'none',
		screen: {
			clientHeight: innerHeight,
			clientWidth: innerWidth,
			devicePixelRatio,
			height: screen.height,
			width: screen.width,
		},
		service: known ? 'none' : 'sync',
		startTime: performance.timing.navigationStart,
		timers: {},
		uid,
		uniqueUserId: page.uniqueUserId,
		utm_campaign: 'none',
		utm_content: 'none',
		utm_medium: 'none',
		utm_source: 'none',
		utm_term: 'none',
	};
	if (!flushed) body.navigationTiming = navigationTiming();
	flushed = true;
	return body;
}

// report is the query of an error report: raven.js sent it with a GET.
function report() {
	const script = `${location.origin}/scripts/main.js`;
	const data = {
		project: 'metrics-errors',
		logger: 'javascript',
		platform: 'javascript',
		request: { url: location.href, headers: { 'User-Agent': navigator.userAgent } },
		exception: { type: 'TypeError', value: 'view is undefined' },
		stacktrace: { frames: [{ filename: script, lineno: 42, colno: 7, function: 'render', in_app: true }] },
		culprit: script,
		message: 'view is undefined',
		extra: { 'session:duration': Math.round(performance.now()) },
		event_id: hex(16),
	};
	return { sentry_version: 4, sentry_client: 'raven-js/1.1.18', sentry_key: '__API_KEY__', sentry_data: JSON.stringify(data) };
}

// What can be sent. A kind with a body goes out as a beacon, the others as a
// GET. The gated ones are for the route of their path.
const kinds = {
	metrics: { name: 'Metrics beacon', path: '/metrics', gated: true, body: () => flush(people[me.who].uid) },
	errors: { name: 'Error report', path: '/metrics-errors', gated: true, query: report },
	experiments: { name: 'Experiments', path: '/experiments.bundle.js', gated: true },
	flow: { name: 'Sign-in flow', path: '/metrics-flow', query: () => ({ entrypoint: 'abouthome', form_type: 'email' }) },
};

// send sends one request and shows what it holds.
function send({ path, body, query }, mark) {
	const fields = { beacon: mark, ...query?.() };
	const url = `${path}?${new URLSearchParams(fields)}`;
	if (body) {
		const held = body();
		// A string makes it text/plain, and the page never sees the answer.
		navigator.sendBeacon(url, JSON.stringify(held));
		$('payload').textContent = `POST ${url}\n\n${JSON.stringify(held, null, 2)}`;
	} else {
		// What became of it shows in the counters and the log, not in the answer.
		fetch(url, { cache: 'no-store' }).then((answer) => answer.text()).catch(() => {});
		const lines = Object.entries(fields).map(([name, value]) => `${name} = ${value}`);
		$('payload').textContent = `GET ${path}\n\n${lines.join('\n')}`;
	}
}

// ---- Sending one, and finding out ---------------------------------------------

async function sendOne(kind) {
	const { name, path, gated, body } = kind;
	const before = await readCounters();
	const row = addRow(name, `${body ? 'POST' : 'GET'} ${path}`, 'Content server');

	// The mark finds the request again in the content server's log.
	const mark = (lastMark = Math.max(Date.now(), lastMark + 1));
	send(kind, mark);
	count('sent');

	const decision = gated && (await until(() => newDecision(before, path), 3000));
	row.gate(...inWords(gated, decision));

	// Nothing can be waited for where nothing should arrive; half a second is
	// long on one machine.
	const stopped = decision?.decision === 'block' && decision.mode === 'enforce';
	const arrived = await until(() => hasArrived(mark), stopped ? 500 : 3000);
	if (arrived) count('arrived');
	if (stopped && !arrived) count('stopped');
	if (arrived) row.server(stopped ? 'odd' : 'good', 'received', stopped ? 'although the gate says it was blocked' : 'it is in the log');
	else row.server(stopped ? 'stop' : 'odd', 'not received', stopped ? 'no trace in the log' : 'not in the log, though nothing stopped it');

	if (decision?.reason === 'signal' && (await wasWrittenBack())) {
		row.gate('stop', 'block', `${reasons.signal}; the gate wrote that into ${people[me.who].name}’s profile`);
	}
	say(`${name}: ${row.words()}.`);
}

// wasWrittenBack sees the gate write the browser's opt-out into a profile that
// held no choice.
async function wasWrittenBack() {
	if (!people[me.who].session || me.preference !== null) return false;
	return until(async () => (me.preference = await readPreference()) !== null, 2000);
}

async function sendAll(names) {
	const { stopped, arrived } = counts;
	for (const name of names) {
		say(`Sending: ${kinds[name].name} …`);
		await sendOne(kinds[name]);
	}
	if (names.length > 1) {
		say(`Sent ${names.length}: the gate stopped ${counts.stopped - stopped}, the content server received ${counts.arrived - arrived}.`);
	}
}

for (const button of document.querySelectorAll('[data-send]')) {
	button.addEventListener('click', () => act(() => sendAll(button.dataset.send.split(' '))));
}

show();
act(start);
