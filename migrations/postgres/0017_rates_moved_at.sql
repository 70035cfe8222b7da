-- When a rate was moved, by the same clock as full_at: where that clock is set back, a rate goes with it.
alter table shared_rates add column moved_at bigint not null default 0;
