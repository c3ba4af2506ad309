-- The recommended indexes; missing_indexes.sql checks for them. Without them, the results are the same, but
-- some reports are slower. Run this with psql, outside a transaction. The indexes are built concurrently,
-- without blocking writes. An interrupted build leaves an invalid index: repair it with
-- reindex index concurrently.

-- available_benefits and inactivity_periods: the benefits of one venue
create index concurrently if not exists benefit_venue_id_idx
on benefit ("venueId");

-- inactivity_periods: the uses of a benefit. top_benefits may scan it instead of the table
create index concurrently if not exists benefit_usage_benefit_id_usage_timestamp_idx
on benefit_usage ("benefitId", "usageTimestamp");

-- available_benefits: a person's latest use of a benefit
create index concurrently if not exists benefit_usage_person_id_benefit_id_usage_timestamp_idx
on benefit_usage ("personId", "benefitId", "usageTimestamp");
