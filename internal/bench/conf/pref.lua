-- For haproxy.cfg, on a miss: txn.pref is 1 for not opted out, 2 for opted out.
local url = "http://" .. os.getenv("BENCH_PROFILE") .. "/v1/metrics_optout"
core.register_action("pref", { "http-req" }, function(txn)
  local res = core.httpclient():get{ url = url, timeout = 2000, headers = { ["x-user-id"] = { txn:get_var("txn.uid") } } }
  if res and res.status == 200 then
    txn:set_var("txn.pref", res.body:find('"metrics_optout":true', 1, true) and 2 or 1)
  end
end)
