-- Filters don't compress: the server need not try.
alter table key_filters alter column state set storage external;
