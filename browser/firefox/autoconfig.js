// Written by caddy metrics-gate firefox-responder. Firefox skips this line.
pref("general.config.filename", "firefox.cfg");
pref("general.config.obscure_value", 0);
pref("general.config.sandbox_enabled", false);
