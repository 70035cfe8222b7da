-- An arm's sums also hold expired holds, and what it answered once it was promoted: folded again at the next start.
delete from arm_units;
delete from arm_latencies;
delete from projections where view = 'experiments';
