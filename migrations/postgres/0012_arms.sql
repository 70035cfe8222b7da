-- An arm's sums also hold expired holds, and what it answered once it was promoted: folded again at the next start.
-- Its checkpoint goes first: who folds meanwhile adds nothing to rows that stay.
delete from projections where view = 'experiments';
delete from arm_units;
delete from arm_latencies;
