//! Who owns a shard: rendezvous hashing over the nodes that are alive, so that a node that comes or goes moves only the
//! shards that it gains or leaves behind.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The nodes in the order in which they should own a shard.
pub fn ranked(nodes: &[Uuid], shard: i32) -> Vec<Uuid> {
    let mut weighed: Vec<([u8; 32], Uuid)> = nodes.iter().map(|node| (weight(*node, shard), *node)).collect();
    weighed.sort_unstable_by(|a, b| b.cmp(a));
    weighed.into_iter().map(|(_, node)| node).collect()
}

fn weight(node: Uuid, shard: i32) -> [u8; 32] {
    Sha256::new().chain_update(node.as_bytes()).chain_update(shard.to_be_bytes()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: i32 = 1_000;

    fn owners(nodes: &[Uuid]) -> Vec<Uuid> {
        (0..SHARDS).map(|shard| ranked(nodes, shard)[0]).collect()
    }

    #[test]
    fn a_node_that_goes_moves_only_its_own_shards_to_all_others() {
        let nodes: Vec<Uuid> = (1..=4).map(Uuid::from_u128).collect();
        let (gone, left) = nodes.split_first().unwrap();

        let (before, after) = (owners(&nodes), owners(left));

        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || before == gone);
        }
        for node in left {
            let gained = before.iter().zip(&after).filter(|(was, is)| was == &gone && is == &node).count();
            assert!(gained > 40, "{gained} of about 83");
        }
    }

    #[test]
    fn all_nodes_see_the_same_owner_in_whatever_order_they_know_each_other() {
        let nodes: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let reversed: Vec<Uuid> = nodes.iter().rev().copied().collect();

        assert_eq!(owners(&nodes), owners(&reversed));
    }
}
