-- What answers that were given again would have cost. None was before.
alter table spend_hourly add column saved integer not null default 0;
