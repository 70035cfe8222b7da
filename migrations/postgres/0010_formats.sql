-- Which format of the log a node reads: its flag is raised once all of them read the same. Nodes of a version that knows
-- nothing of it read the first.
alter table nodes add column format bigint not null default 0;
