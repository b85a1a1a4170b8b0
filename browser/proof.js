// Finds what proves the account of who is signed in, and hands it over with a
// report: as a page begins, when the account has changed, when the gate asks,
// and every five minutes while the page is visible. It reads storage, writes its
// own key only, and says nothing where it cannot tell.
(function (tag, attempt, report) {
  const FRESH = 5 * 60 * 1000; // for how long the same is not handed over again
  const LOOK = 10 * 1000; // how often a visible page looks whether it changed
  const CLOCK = 30 * 1000; // how wrong a clock may be
  const KEY = 'metrics_gate_proof';
  const NOBODY = '-';
  const FXA = '__fxa_storage.';

  const where = JSON.parse(tag.getAttribute('data-proof'));
  if (!where || !isSecureContext) {
    return undefined;
  }
  for (let frame = window; frame !== frame.parent; frame = frame.parent) {
    if (frame.parent.location.origin !== location.origin) { // throws for other origins
      return undefined;
    }
  }

  let mine = { mark: '', when: 0 }; // what this page handed over last
  let asked = tag.hasAttribute('data-report');
  let sending;
  let behind = 0; // this clock, the gate's

  // The text below a path of an item: null where there is none, undefined where
  // it is something else. What is JSON inside JSON is read as well.
  function read(storage, key, path) {
    let value = storage.getItem(key);
    for (const step of path) {
      if (!value) {
        return null;
      }
      value = (typeof value === 'string' ? JSON.parse(value) : value)[step];
    }
    if (!value || value === 'null') {
      return null;
    }
    const text = value[0] === '"' ? JSON.parse(value) : value;
    return typeof text === 'string' ? text || null : undefined;
  }

  // The credential: null where nobody is signed in.
  function find() {
    if (!where.fxa) {
      const storage = where.local_storage ? localStorage : sessionStorage;
      const token = read(storage, where.local_storage || where.session_storage, where.path ? where.path.split('.') : []);
      return token && (/^(?:Bearer )?([!-~]{1,8192})$/i.exec(token) || [])[1];
    }
    const uid = read(localStorage, FXA + 'currentAccountUid', []);
    const token = uid && read(localStorage, FXA + 'accounts', [uid, 'sessionToken']);
    return token ? (/^[0-9a-f]{64}$/i.exec(token) || [])[0] : token;
  }

  // What is kept of a credential: 32 bits, by which to see that it changed.
  function checksum(text) {
    let sum = 2166136261;
    for (let i = 0; i < text.length; i++) {
      sum = Math.imul(sum ^ text.charCodeAt(i), 16777619);
    }
    return (sum >>> 0).toString(36);
  }

  const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

  // What stands in Authorization for a session token of Firefox Accounts.
  async function derive(token) {
    const { subtle } = crypto;
    const utf8 = (text) => new TextEncoder().encode(text);
    const secret = Uint8Array.from(token.match(/../g), (pair) => parseInt(pair, 16));
    const derived = new Uint8Array(await subtle.deriveBits(
      { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: utf8('identity.mozilla.com/picl/v1/sessionToken') },
      await subtle.importKey('raw', secret, 'HKDF', false, ['deriveBits']), 512));
    const id = hex(derived.subarray(0, 32));
    if (!where.hawk) {
      return 'Bearer fxs_' + id;
    }
    const url = new URL(where.hawk + '/session/status');
    const ts = Math.round((Date.now() + behind) / 1000);
    const nonce = hex(crypto.getRandomValues(new Uint8Array(8)));
    const port = url.port || (url.protocol === 'http:' ? 80 : 443);
    const signed = ['hawk.1.header', ts, nonce, 'GET', url.pathname, url.hostname, port, '', '', ''].join('\n');
    const key = await subtle.importKey('raw', derived.subarray(32), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
    const mac = btoa(String.fromCharCode(...new Uint8Array(await subtle.sign('HMAC', key, utf8(signed)))));
    return `Hawk id="${id}", ts="${ts}", nonce="${nonce}", mac="${mac}"`;
  }

  // Hands over what is due. A page that is left cannot wait for what is under
  // way; a page that comes back has another's word on what was last.
  function look(leaving, back) {
    const credential = attempt(find);
    if (credential === undefined || sending && !leaving) {
      return sending;
    }
    const mark = credential === null ? NOBODY : checksum(credential);
    const holds = (last) => last.mark === mark && (mark === NOBODY || Math.abs(Date.now() - last.when) < FRESH);
    const [last, when] = (attempt(() => localStorage.getItem(KEY)) || '').split(' ');
    const theirs = { mark: last, when: Number(when) };
    if (holds(theirs) || back && theirs.when > mine.when) {
      mine = theirs;
    }
    if (holds(mine) && !asked) {
      return sending;
    }
    asked = false;
    const handed = mine = { mark, when: Date.now() };
    const send = (proof) => report({ proof }).then((response) => heard(response, handed));
    const sent = credential && where.fxa ? derive(credential).then(send) : send(credential && 'Bearer ' + credential);
    sending = sent.catch(() => {}).then(() => { // the next page tries again
      sending = undefined;
      return look();
    });
    return sending;
  }

  // The answer to a report, which may have come without a proof. Where one could
  // not be looked at, it is handed over again at once only if a wrong clock was why.
  function heard(response, handed) {
    const ahead = Date.parse(response.headers.get('Date')) - Date.now();
    const wrong = Math.abs(ahead - behind) > CLOCK;
    behind = wrong ? ahead : behind;
    if (handed && response.status === 204) {
      attempt(() => localStorage.setItem(KEY, handed.mark + ' ' + handed.when));
    }
    return response.status !== 200 ? undefined : response.json().then((reply) => {
      asked = reply.again === true && (!handed || wrong && !!where.hawk);
      return handed ? undefined : look();
    });
  }

  const on = (target, type, then) => target && target.addEventListener(type, () => attempt(then));
  const seen = () => document.hidden || look();
  on(window, 'storage', seen);
  on(window.navigation, 'currententrychange', seen);
  on(window, 'pageshow', () => look(false, true));
  on(window, 'pagehide', () => look(true));
  on(document, 'visibilitychange', () => look(document.hidden, !document.hidden));
  setInterval(seen, LOOK);
  return { look, heard };
})
