-- An org's snapshots of before are kept, one for each stretch of its versions: a balance of the past begins at one.
drop table snapshots;

create table snapshots (
    shard integer not null,
    org_id blob not null,
    stretch integer not null,
    version integer not null,
    position integer not null,
    last_hash blob not null,
    format integer not null,
    state blob not null,
    constraint snapshots_one_per_stretch primary key (shard, org_id, stretch)
) strict;
