-- What the units of experiments met in their arms: the sums over which intervals are reckoned.
create table arm_units (
    shard integer not null,
    generation integer not null,
    arm text not null,
    unit text not null,
    requests integer not null,
    failed integer not null,
    fallbacks integer not null,
    charged integer not null,
    input_tokens integer not null,
    output_tokens integer not null,
    latency_micros integer not null,
    judged integer not null,
    judged_charged integer not null,
    successes integer not null,
    scored integer not null,
    score_thousandths integer not null,
    constraint arm_units_one_per_unit primary key (shard, generation, arm, unit)
) strict, without rowid;

-- Answers of an arm by how long they took, in classes of a quarter of a power of two.
create table arm_latencies (
    shard integer not null,
    generation integer not null,
    arm text not null,
    class integer not null,
    requests integer not null,
    constraint arm_latencies_one_per_class primary key (shard, generation, arm, class)
) strict, without rowid;
