-- A metrics gate for ngx_lua: HS256 by FFI to libcrypto, verified tokens in an
-- LRU cache, preferences in a shared dict, misses by cosocket.
local ffi, b64, cjson = require "ffi", require "ngx.base64", require "cjson.safe"
ffi.cdef[[
typedef struct evp_md_st EVP_MD;
const EVP_MD *EVP_sha256(void);
unsigned char *HMAC(const EVP_MD *m, const void *key, int klen, const unsigned char *d, size_t n, unsigned char *md, unsigned int *mdlen);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
]]
local C = ffi.C
local md, mdlen = ffi.new("unsigned char[64]"), ffi.new("unsigned int[1]")
local _M = {}
local key, host, port, ttl, tokens, sha256

function _M.setup(k, profile, t)
  key, ttl = k, t
  host, port = profile:match("^(.-):(%d+)$"); port = tonumber(port)
  sha256 = C.EVP_sha256()
  tokens = require("resty.lrucache").new(200000)
end

local function verify(tok)
  local d2 = tok:find(".", (tok:find(".", 1, true) or 0) + 1, true)
  if not d2 then return nil end
  local d1 = tok:find(".", 1, true)
  if d1 == d2 then return nil end
  local sig = b64.decode_base64url(tok:sub(d2 + 1))
  if not sig or #sig ~= 32 then return nil end
  if C.HMAC(sha256, key, #key, tok, d2 - 1, md, mdlen) == nil then return nil end
  if C.CRYPTO_memcmp(md, sig, 32) ~= 0 then return nil end
  local h = cjson.decode(b64.decode_base64url(tok:sub(1, d1 - 1)) or "")
  if not h or h.alg ~= "HS256" then return nil end
  local c = cjson.decode(b64.decode_base64url(tok:sub(d1 + 1, d2 - 1)) or "")
  if not c or not c.sub or not c.exp or c.exp <= ngx.time() then return nil end
  return c.sub, c.exp
end

local function fetch(uid)
  local s = ngx.socket.tcp(); s:settimeout(2000)
  if not s:connect(host, port) then return nil end
  s:send("GET /v1/metrics_optout HTTP/1.1\r\nHost: profile\r\nX-User-Id: " .. uid .. "\r\n\r\n")
  local st = s:receive("*l")
  if not st or not st:find(" 200 ", 1, true) then s:close(); return nil end
  local len
  while true do
    local l = s:receive("*l")
    if not l then return nil end
    if l == "" then break end
    local v = l:lower():match("^content%-length:%s*(%d+)")
    if v then len = tonumber(v) end
  end
  local b = len and s:receive(len)
  if not b then s:close(); return nil end
  s:setkeepalive(60000, 64)
  local o = cjson.decode(b)
  return o and (o.metrics_optout == true and 1 or 0)
end

local function drop()
  ngx.status = 200
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Content-Length"] = 16
  ngx.req.discard_body()
  ngx.print('{"success":true}')
  return ngx.exit(200)
end

function _M.check(method)
  if ngx.req.get_method() ~= method then return end
  local tok, uid = ngx.var.cookie_session, nil
  if tok then
    uid = tokens:get(tok)
    if not uid then
      local exp
      uid, exp = verify(tok)
      if uid then tokens:set(tok, uid, math.min(ttl, exp - ngx.time())) end
    end
  end
  if not uid then
    if ngx.var.cookie_metrics_optout == "1" then return drop() end
    return
  end
  local p = ngx.shared.prefs:get(uid)
  if not p then
    p = fetch(uid)
    if not p then return end
    ngx.shared.prefs:set(uid, p, ttl)
  end
  if p == 1 then return drop() end
end
return _M
