-- Folds of the log, in a file of their own: a cache that can be deleted. Rows of several generations of a view stand
-- side by side, so that one is rebuilt while readers use another.
create table projections (
    shard integer not null,
    view text not null,
    generation integer not null,
    -- Events up to here are folded; the hash is that of the event here.
    position integer not null,
    hash blob not null,
    live integer not null,
    constraint projections_one_per_generation primary key (shard, view, generation)
) strict, without rowid;

create table org_events (
    shard integer not null,
    generation integer not null,
    org_id blob not null,
    block integer not null,
    first_version integer not null,
    offsets blob not null,
    constraint org_events_one_per_block primary key (shard, generation, org_id, block)
) strict, without rowid;

create index org_events_by_version on org_events (shard, generation, org_id, first_version);

create table commands (
    shard integer not null,
    generation integer not null,
    key_hash blob not null,
    position integer not null,
    constraint commands_one_per_key primary key (shard, generation, key_hash)
) strict, without rowid;

create table reservations (
    shard integer not null,
    generation integer not null,
    org_id blob not null,
    local_id blob not null,
    positions blob not null,
    constraint reservations_one_per_id primary key (shard, generation, org_id, local_id)
) strict, without rowid;

create table balances (
    shard integer not null,
    generation integer not null,
    org_id blob not null,
    version integer not null,
    position integer not null,
    recorded_at integer not null,
    available integer not null,
    held integer not null,
    granted integer not null,
    consumed integer not null,
    expired integer not null,
    refunded integer not null,
    debt integer not null,
    overdraft_limit integer not null,
    constraint balances_one_per_org primary key (shard, generation, org_id)
) strict, without rowid;

create table lots (
    shard integer not null,
    generation integer not null,
    org_id blob not null,
    lot_id blob not null,
    granted integer not null,
    consumed integer not null,
    expired integer not null,
    refunded integer not null,
    priority integer not null,
    expires_at integer,
    created_at integer not null,
    paid_minor integer not null,
    currency text,
    recognised_minor integer not null,
    refunded_minor integer not null,
    constraint lots_one_per_id primary key (shard, generation, org_id, lot_id)
) strict, without rowid;

create table spend_hourly (
    shard integer not null,
    generation integer not null,
    org_id blob not null,
    hour integer not null,
    project text not null,
    key text not null,
    end_user text not null,
    model text not null,
    provider text not null,
    route text not null,
    arm text not null,
    labels text not null,
    requests integer not null,
    charged integer not null,
    input_tokens integer not null,
    cache_read_tokens integer not null,
    cache_write_5m_tokens integer not null,
    cache_write_1h_tokens integer not null,
    output_tokens integer not null,
    reasoning_tokens integer not null,
    audio_input_tokens integer not null,
    cached_audio_tokens integer not null,
    audio_output_tokens integer not null,
    image_tokens integer not null,
    video_tokens integer not null,
    web_searches integer not null,
    images integer not null,
    seconds integer not null,
    constraint spend_hourly_one_per_group primary key
        (shard, generation, org_id, hour, project, key, end_user, model, provider, route, arm, labels)
) strict, without rowid;

-- Folded accounts, so that one need not be folded from its first event.
create table snapshots (
    shard integer not null,
    org_id blob not null,
    version integer not null,
    position integer not null,
    last_hash blob not null,
    format integer not null,
    state blob not null,
    constraint snapshots_one_per_org primary key (shard, org_id)
) strict, without rowid;

-- Which idempotency keys were ever bound, so that a new one needs no look-up.
create table key_filters (
    shard integer not null,
    position integer not null,
    state blob not null,
    constraint key_filters_one_per_shard primary key (shard)
) strict, without rowid;
