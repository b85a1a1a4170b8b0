'use strict';

// The demo page: sends what a Firefox Accounts page sends and finds out what
// became of each request. examples/demo.caddyfile has the /demo addresses.

const $ = (id) => document.getElementById(id);

// The accounts that examples/run.sh mints sessions for. Who is "named" has no
// session; only the beacons say who it is.
const ann = '0a110a110a110a110a110a110a110a11';
const ben = '0be00be00be00be00be00be00be00be0';

const people = {
	nobody: { uid: 'none', name: 'Nobody', hint: 'No session, and the beacons name no account.' },
	ann: { uid: ann, name: 'Ann', session: true, hint: 'Signed in: a session cookie proves who it is.' },
	ben: { uid: ben, name: 'Ben', session: true, hint: 'Signed in: a session cookie proves who it is.' },
	named: {
		uid: ann,
		name: 'Ann, only named',
		hint: 'No session, but the metrics beacon names Ann’s account, as Firefox Accounts’ own does. A name can stop a beacon, and allow nothing.',
	},
};

const preferences = {
	null: { name: 'no choice', hint: 'metrics_optout is null: measured, unless the browser objects.' },
	false: { name: 'allows', hint: 'metrics_optout is false: an explicit yes, whatever the browser says.' },
	true: { name: 'opted out', hint: 'metrics_optout is true: no metrics, whatever the browser says.' },
};

const signals = {
	'': { name: 'browser says nothing', hint: 'There is no metrics_optout cookie.' },
	true: {
		name: 'browser opted out',
		hint: 'Cookie metrics_optout=true. It counts where the account made no choice, and is then written into the profile of who is signed in.',
	},
};

const reasons = {
	preference: 'the account opted out',
	explicit_allow: 'the account allows metrics',
	signal: 'the browser opted out',
	default: 'nobody made a choice',
	unknown: 'the preference could not be learnt',
	unverified_session: 'the session does not verify',
	probing: 'the browser has not answered yet',
};

// The gate may use an answer for as long as max_age in Caddyfile.example says.
const maxAge = 2000;

let who = 'nobody';
let preference = null; // what the profile server said last of who is signed in
let changedAt = -maxAge; // when the preference was last changed here
let lastMark = 0;
let flushed = false;
const counts = { sent: 0, stopped: 0, arrived: 0 };

// ---- Asking the server ------------------------------------------------------

// A Trouble is shown to the visitor; one that may pass by itself is tried again.
class Trouble extends Error {
	passing = false;
}

// ask fetches one of the /demo addresses.
async function ask(path, options) {
	let answer;
	try {
		answer = await fetch(path, { cache: 'no-store', ...options });
	} catch {
		const trouble = new Trouble('The gate cannot be reached. Start it with “make run”; this page goes on by itself then.');
		trouble.passing = true;
		throw trouble;
	}
	if (answer.ok) return answer;
	if (answer.status === 503) throw new Trouble(await answer.text());
	throw new Trouble(`${path} answers ${answer.status}. Start the demonstration with “make run”.`);
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// until asks again and again until the answer is truthy or the time is over.
async function until(question, ms) {
	const end = performance.now() + ms;
	for (;;) {
		const answer = await question();
		if (answer || performance.now() > end) return answer;
		await pause(60);
	}
}

async function readPreference() {
	const answer = await ask('/demo/preference');
	return answer.status === 204 ? null : (await answer.json()).metrics_optout;
}

// readCounters gives caddy_metrics_gate_requests_total: its labels, as they are
// written, to the count.
async function readCounters() {
	const text = await (await ask('/demo/metrics')).text();
	const lines = text.matchAll(/^caddy_metrics_gate_requests_total\{(.*)\} (\S+)$/gm);
	return new Map([...lines].map(([, labels, count]) => [labels, Number(count)]));
}

// newDecision gives the labels of the counter for the route that moved.
async function newDecision(before, route) {
	for (const [labels, count] of await readCounters()) {
		if (count === (before.get(labels) ?? 0)) continue;
		const decision = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map((m) => m.slice(1)));
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
	metrics: { name: 'Metrics beacon', path: '/metrics', gated: true, body: () => flush(people[who].uid) },
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
	const row = addRow(name, `${body ? 'POST' : 'GET'} ${path}`);

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
		row.gate('stop', 'block', `${reasons.signal}; the gate wrote that into ${people[who].name}’s profile`);
	}
	say(`${name}: ${row.words()}.`);
}

// wasWrittenBack sees the gate write the browser's opt-out into a profile that
// held no choice.
async function wasWrittenBack() {
	if (!people[who].session || preference !== null) return false;
	return until(async () => (preference = await readPreference()) !== null, 2000);
}

// inWords gives colour, badge and note for what the gate decided.
function inWords(gated, decision) {
	if (!gated) return ['calm', 'not gated', 'essential: always passes'];
	if (!decision) return ['odd', 'no decision seen', 'the counters did not move'];
	const why = reasons[decision.reason] ?? decision.reason;
	if (decision.decision === 'collect') return ['good', 'collect', why];
	return ['stop', decision.mode === 'shadow' ? 'would block' : 'block', why];
}

async function sendAll(names) {
	const wait = changedAt + maxAge - performance.now();
	if (wait > 0) {
		say('A moment: the gate may use the old preference for two seconds (max_age).');
		await pause(wait);
	}
	const { stopped, arrived } = counts;
	for (const name of names) {
		say(`Sending: ${kinds[name].name} …`);
		await sendOne(kinds[name]);
	}
	if (names.length > 1) {
		say(`Sent ${names.length}: the gate stopped ${counts.stopped - stopped}, the content server received ${counts.arrived - arrived}.`);
	}
}

// ---- Showing ------------------------------------------------------------------

function say(words) {
	$('status').textContent = words;
}

function count(what) {
	$(`count-${what}`).textContent = ++counts[what];
}

function element(name, properties, ...children) {
	const made = Object.assign(document.createElement(name), properties);
	made.append(...children);
	return made;
}

// addRow starts a line of the table, and gives what fills in the rest of it.
function addRow(name, address) {
	const state = [people[who].name, signals[signal()].name];
	if (people[who].session) state.splice(1, 0, preferences[preference].name);

	const gate = waitingCell('Gate:');
	const server = waitingCell('Content server:');
	const sent = cell(element('b', {}, name), element('code', {}, address), note(state.join(' · ')));
	const row = element('tr', {}, sent, gate, server);
	row.setAttribute('role', 'row');
	document.querySelector('.empty')?.remove();
	$('rows').prepend(row);

	const fill = (place) => (colour, badge, why) => {
		place.className = '';
		place.replaceChildren(element('span', { className: `badge ${colour}` }, badge), note(why));
	};
	const words = (place) => `${place.dataset.label} ${place.firstChild.textContent}, ${place.lastChild.textContent}`;
	return { gate: fill(gate), server: fill(server), words: () => `${words(gate)}. ${words(server)}` };
}

// cell says its role, because as a card on a phone it is no table cell by style.
function cell(...children) {
	const made = element('td', {}, ...children);
	made.setAttribute('role', 'cell');
	return made;
}

function waitingCell(label) {
	const made = cell('…');
	made.className = 'waiting';
	made.dataset.label = label;
	return made;
}

function note(words) {
	return element('span', { className: 'note' }, words);
}

function show() {
	const person = people[who];
	const choices = $('choices').elements;
	choices.who.value = who;
	choices.preference.value = person.session ? String(preference) : '';
	choices.signal.value = signal();
	$('preference').disabled = !person.session;
	$('who-hint').textContent = person.hint;
	$('preference-hint').textContent = person.session
		? preferences[preference].hint
		: who === 'named'
			? 'What Ann chose counts. Sign in as Ann to change it.'
			: 'Sign in as Ann or Ben to choose.';
	$('signal-hint').textContent = signals[signal()].hint;
}

// ---- Choosing -----------------------------------------------------------------

const signal = () => (/(?:^|; )metrics_optout=true/.test(document.cookie) ? 'true' : '');

async function become(name) {
	await ask(people[name].session ? `/demo/sign-in/${name}` : '/demo/sign-out', { method: 'POST' });
	who = name;
	if (people[who].session) preference = await readPreference();
	localStorage.setItem('who', who);
}

async function prefer(choice) {
	await ask('/demo/preference', {
		method: 'POST',
		headers: { 'Content-Type': 'application/json' },
		body: JSON.stringify({ metrics_optout: choice }),
	});
	preference = choice;
	changedAt = performance.now();
}

function setSignal(value) {
	document.cookie = `metrics_optout=true; Path=/; SameSite=Lax; Max-Age=${value ? 86400 : 0}`;
}

// act does one thing after the other, so that the counters' difference is one
// request's, and shows what went wrong.
let acts = Promise.resolve();
let retry;

function act(work) {
	clearTimeout(retry);
	acts = acts.then(work).then(
		() => ($('trouble').hidden = true),
		(error) => {
			$('trouble').textContent = error.message;
			$('trouble').hidden = false;
			if (error.passing) retry = setTimeout(() => act(start), 2000);
			for (const place of document.querySelectorAll('.waiting')) place.textContent = 'not known';
			say('That did not work.');
			if (!(error instanceof Trouble)) console.error(error);
		},
	).then(show);
}

// start signs in whom this browser was last, with a fresh session.
async function start() {
	await become(people[localStorage.getItem('who')] ? localStorage.getItem('who') : 'nobody');
}

$('choices').addEventListener('change', ({ target }) => {
	if (target.name === 'who') act(() => become(target.value));
	if (target.name === 'preference') act(() => prefer(JSON.parse(target.value)));
	if (target.name === 'signal') act(() => setSignal(target.value));
});

for (const button of document.querySelectorAll('[data-send]')) {
	button.addEventListener('click', () => act(() => sendAll(button.dataset.send.split(' '))));
}

show();
act(start);
