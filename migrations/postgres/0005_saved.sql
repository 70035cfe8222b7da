-- What answers that were given again would have cost. None was before.
alter table spend_hourly add column saved bigint not null default 0;
