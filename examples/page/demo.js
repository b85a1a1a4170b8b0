// What the demo's pages share: who the visitor is and what they chose, what the
// gate counted, and the table of what became of each request.
// examples/demo.caddyfile has the /demo addresses.

export const $ = (id) => document.getElementById(id);

// The accounts that examples/run.sh mints sessions for. Who is "named" has no
// session; only the beacons say who it is.
const ann = '0a110a110a110a110a110a110a110a11';
const ben = '0be00be00be00be00be00be00be00be0';

export const people = {
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

export const reasons = {
	preference: 'the account opted out',
	explicit_allow: 'the account allows metrics',
	signal: 'the browser opted out',
	default: 'nobody made a choice',
	unknown: 'the preference could not be learnt',
	unverified_session: 'the session does not verify',
	probing: 'the browser has not answered yet',
};

export const counts = { sent: 0, stopped: 0, arrived: 0 };

// me is who the visitor is, what the profile server said last of their
// preference, and what a page does when that is another one.
export const me = { who: 'nobody', preference: null, changed() {} };

// ---- Asking the server ------------------------------------------------------

// A Trouble is shown to the visitor; one that may pass by itself is tried again.
class Trouble extends Error {
	passing = false;
}

// ask fetches one of the /demo addresses.
export async function ask(path, options) {
	let answer;
	try {
		answer = await fetch(path, { cache: 'no-store', ...options });
	} catch {
		const trouble = new Trouble('The gate cannot be reached. Start it with “./examples/run.sh”; this page goes on by itself then.');
		trouble.passing = true;
		throw trouble;
	}
	if (answer.ok) return answer;
	if (answer.status === 503) throw new Trouble(await answer.text());
	throw new Trouble(`${path} answers ${answer.status}. Start the demonstration with “./examples/run.sh”.`);
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// until asks again and again until the answer is truthy or the time is over.
export async function until(question, ms) {
	const end = performance.now() + ms;
	for (;;) {
		const answer = await question();
		if (answer || performance.now() > end) return answer;
		await pause(60);
	}
}

export async function readPreference() {
	const answer = await ask('/demo/preference');
	return answer.status === 204 ? null : (await answer.json()).metrics_optout;
}

// readCounters gives a counter of the gates: its labels, as they are written, to
// the count.
export async function readCounters(name = 'requests_total') {
	const text = await (await ask('/demo/metrics')).text();
	const lines = text.matchAll(new RegExp(`^caddy_metrics_gate_${name}\\{(.*)\\} (\\S+)$`, 'gm'));
	return new Map([...lines].map(([, labels, count]) => [labels, Number(count)]));
}

// readFeed gives how many changes the profile server has told the gate.
async function readFeed() {
	return (await readCounters('feed_events_total')).get('event="change"') ?? 0;
}

// labelsOf takes the labels of a counter apart.
export const labelsOf = (labels) => Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map((m) => m.slice(1)));

// ---- Showing ------------------------------------------------------------------

export function say(words) {
	$('status').textContent = words;
}

function element(name, properties, ...children) {
	const made = Object.assign(document.createElement(name), properties);
	made.append(...children);
	return made;
}

export function count(what) {
	$(`count-${what}`).textContent = ++counts[what];
}

// inWords gives colour, badge and note for what the gate decided.
export function inWords(gated, decision) {
	if (!gated) return ['calm', 'not gated', 'essential: always passes'];
	if (!decision) return ['odd', 'no decision seen', 'the counters did not move'];
	const why = reasons[decision.reason] ?? decision.reason;
	if (decision.decision === 'collect') return ['good', 'collect', why];
	return ['stop', decision.mode === 'shadow' ? 'would block' : 'block', why];
}

// addRow starts a line of the table, and gives what fills in the rest of it.
export function addRow(name, address, application) {
	const state = [people[me.who].name, signals[signal()].name];
	if (people[me.who].session) state.splice(1, 0, preferences[me.preference].name);

	const gate = waitingCell('Gate:');
	const server = waitingCell(`${application}:`);
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

export function show() {
	const person = people[me.who];
	const choices = $('choices').elements;
	choices.who.value = me.who;
	choices.preference.value = person.session ? String(me.preference) : '';
	choices.signal.value = signal();
	$('preference').disabled = !person.session;
	$('who-hint').textContent = person.hint;
	$('preference-hint').textContent = person.session
		? preferences[me.preference].hint
		: me.who === 'named'
			? 'What Ann chose counts. Sign in as Ann to change it.'
			: 'Sign in as Ann or Ben to choose.';
	$('signal-hint').textContent = signals[signal()].hint;
}

// ---- Choosing -----------------------------------------------------------------

const signal = () => (/(?:^|; )metrics_optout=true/.test(document.cookie) ? 'true' : '');

async function become(name) {
	await ask(people[name].session ? `/demo/sign-in/${name}` : `/demo/sign-out?as=${name}`, { method: 'POST' });
	me.who = name;
	if (people[me.who].session) me.preference = await readPreference();
	me.changed();
}

// prefer records a choice, and waits until the gate was told of it, which takes
// some milliseconds.
async function prefer(choice) {
	const told = await readFeed();
	await ask('/demo/preference', {
		method: 'POST',
		headers: { 'Content-Type': 'application/json' },
		body: JSON.stringify({ metrics_optout: choice }),
	});
	if (choice !== me.preference) await until(async () => (await readFeed()) > told, 3000);
	me.preference = choice;
}

function setSignal(value) {
	document.cookie = `metrics_optout=true; Path=/; SameSite=Lax; Max-Age=${value ? 86400 : 0}`;
}

// act does one thing after the other, so that the counters' difference is one
// request's, and shows what went wrong.
let acts = Promise.resolve();
let retry;

export function act(work) {
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

// start signs in whom this browser was last, in whichever of the applications,
// with a fresh session.
export async function start() {
	const [, last] = /(?:^|; )who=(\w+)/.exec(document.cookie) ?? [];
	await become(people[last] ? last : 'nobody');
}

$('choices').addEventListener('change', ({ target }) => {
	if (target.name === 'who') act(() => become(target.value));
	if (target.name === 'preference') act(() => prefer(JSON.parse(target.value)));
	if (target.name === 'signal') act(() => setSignal(target.value));
});
