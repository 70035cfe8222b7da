-- An arm's failures, fallbacks and latencies are those of the call whose answer the caller got: folded again at the next start.
-- Its checkpoint goes first: who folds meanwhile adds nothing to rows that stay.
delete from projections where view = 'experiments';
delete from arm_units;
delete from arm_latencies;
