-- Which server counts, by when it was started, and from where on: one that takes over
-- may not have the last changes of the one before, and would count them again.
ALTER TABLE metrics_gate.feed
	ADD COLUMN server timestamptz NOT NULL DEFAULT pg_postmaster_start_time(),
	ADD COLUMN origin bigint      NOT NULL DEFAULT 0;
