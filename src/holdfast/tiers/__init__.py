"""The three tiers: `l1_local` in memory, `l2_redis` in Redis Cluster, `l3_postgres` in PostgreSQL."""
