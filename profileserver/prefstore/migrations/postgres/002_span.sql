-- The choice was last said at some time from said - span on, to said: whoever told
-- of it may count in seconds, or have a clock that is wrong.
ALTER TABLE metrics_gate.preference ADD COLUMN span bigint NOT NULL DEFAULT 0;
