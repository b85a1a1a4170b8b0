// Asks Firefox whether its user switched telemetry off, tells Metrics Gate, and
// tells the page that embeds this one. It patches nothing and breaks nothing:
// whatever fails is "no answer". docs/handshake-protocol.md has the messages.
(function (config, prover) {
  'use strict';
  const BASE = '/.well-known/metrics-gate/';
  const CHANNEL = 'metrics_optout';
  const COMMAND = 'metrics_optout:probe';
  const OPTED_OUT = 'opted_out', NO_OBJECTION = 'no_objection', NO_ANSWER = 'no_answer';
  const FRESH = 5 * 60 * 1000; // for how long nobody is asked again
  const KEY = 'metrics_gate';

  const tag = document.currentScript;
  const mustReport = !!tag && tag.hasAttribute('data-report');
  const framed = window.parent !== window;
  let outcome = null;

  function attempt(f) {
    try {
      return f();
    } catch (e) {
      return undefined; // such as storage that is switched off
    }
  }

  function isObject(value) {
    return value !== null && typeof value === 'object' && !Array.isArray(value);
  }

  // What this browser last reported. No answer is kept as long as its cookie,
  // which ends with the browser's session.
  function remembered() {
    const text = attempt(() => sessionStorage.getItem(KEY)) || attempt(() => localStorage.getItem(KEY));
    const [what, when] = (text || '').split(' ');
    return { outcome: what, fresh: Math.abs(Date.now() - Number(when)) < FRESH };
  }

  function remember(what) {
    const text = what + ' ' + Date.now();
    attempt(() => sessionStorage.removeItem(KEY));
    attempt(() => (what === NO_ANSWER ? sessionStorage : localStorage).setItem(KEY, text));
  }

  // Calls back once with an outcome: the first answer counts, and so does the
  // browser's error, which says at once that nobody listens.
  function probe(timeout, done) {
    const messageId = String(Date.now()) + Math.random().toString(36).slice(2);
    let timer;
    function end(what) {
      clearTimeout(timer);
      window.removeEventListener('WebChannelMessageToContent', heard, true);
      done(what);
    }
    function heard(event) {
      attempt(() => {
        const { id, message } = event.detail;
        if (id !== CHANNEL || !message) {
          return;
        }
        const { data } = message;
        if (message.messageId === messageId && isObject(data) && !data.error) {
          const says = data.metrics_optout;
          end(says === true ? OPTED_OUT : says === undefined ? NO_OBJECTION : NO_ANSWER);
        } else if (message.messageId === messageId || message.messageId === undefined && (message.errno || message.error)) {
          end(NO_ANSWER); // "No Such Channel" has no messageId
        }
      });
    }
    timer = setTimeout(end, timeout, NO_ANSWER);
    window.addEventListener('WebChannelMessageToContent', heard, true);
    window.dispatchEvent(new CustomEvent('WebChannelMessageToChrome', {
      detail: JSON.stringify({ id: CHANNEL, message: { command: COMMAND, messageId, data: {} } }),
    }));
  }

  // A report before there is an outcome carries a proof and nothing else.
  function report(what, proof) {
    const body = what === OPTED_OUT ? { metrics_optout: true } : what === NO_ANSWER ? { answered: false } : what ? {} : { probing: true };
    return fetch(BASE + 'signal', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(Object.assign(body, framed && { framed: true }, proof)),
      credentials: 'same-origin',
      keepalive: true,
      redirect: 'error',
    }).then((response) => {
      if (what && response.status === 204) {
        remember(what);
      }
      return response;
    });
  }

  // The origin of the page that embeds this one, if it may be told.
  function embedder(query) {
    const origin = query.get('origin');
    return framed && config.embedders.includes(origin) ? origin : null;
  }

  function tell(origin, optedOut) {
    window.parent.postMessage(JSON.stringify({ command: 'metrics_optout', data: { metrics_optout: optedOut } }), origin);
  }

  function correct(origin) {
    if (!origin) {
      return undefined;
    }
    return fetch(BASE + 'status', { credentials: 'same-origin', cache: 'no-store' })
      .then((response) => response.json())
      .then((status) => {
        if (status.metrics_optout === false) {
          tell(origin, false);
        }
      });
  }

  // A blocked user's page goes without the parameters that force experiments;
  // the application's own scripts have not run yet. The rest of the query stays
  // as it was written.
  function strip() {
    const names = (tag && tag.getAttribute('data-strip') || '').split(' ');
    const pairs = location.search.slice(1).split('&');
    const kept = pairs.filter((pair) => !names.includes(new URLSearchParams(pair).keys().next().value));
    if (kept.length < pairs.length) {
      const query = kept.length ? '?' + kept.join('&') : '';
      history.replaceState(history.state, '', location.origin + location.pathname + query + location.hash);
    }
  }

  attempt(() => Object.defineProperty(window, 'metricsGate', {
    value: Object.freeze({ get outcome() { return outcome; } }),
  }));
  attempt(strip);
  attempt(() => {
    const query = new URLSearchParams(location.search);
    const origin = embedder(query);
    if (origin) {
      tell(origin, true); // until it is known, and before the application speaks
    }
    const before = remembered();
    if (before.fresh) {
      outcome = before.outcome;
    }
    const proof = prover && attempt(() => prover(tag, attempt, (proof) => report(outcome, proof)));
    const proven = proof && proof.look();
    function known(what, mayReport) {
      outcome = what;
      const isNews = mayReport && what !== before.outcome;
      // An account that was proven in the meantime has not learnt the outcome.
      const isOwed = proven ? !before.fresh : isNews || mustReport;
      Promise.resolve(proven)
        .then(() => isOwed && report(what))
        .then((response) => response && proof && proof.heard(response))
        .catch(() => {}) // the next page tries again
        .then(() => correct(origin))
        .catch(() => {});
    }
    if (before.fresh) {
      known(before.outcome, false);
      return;
    }
    const context = query.get('context');
    const timeout = Object.prototype.hasOwnProperty.call(config.timeouts, context) ? config.timeouts[context] : config.timeout;
    probe(timeout, (what) => {
      if (what === before.outcome) {
        remember(what);
      }
      known(what, true);
    });
  });
})(/* configuration */);
