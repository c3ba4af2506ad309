-- The indexes that the reports are written for; missing_indexes.sql looks for the same. The answers are the
-- same without them, only slower. Concurrently: the table can be written to while they are built. Run it with
-- psql, outside a transaction. An index whose build was interrupted is invalid, and stays so until
-- reindex index concurrently.

-- available_benefits and inactivity_periods: the benefits of one venue
create index concurrently if not exists benefit_venue_id_idx
on benefit ("venueId");

-- inactivity_periods looks up uses in it; top_benefits may count in it
create index concurrently if not exists benefit_usage_benefit_id_usage_timestamp_idx
on benefit_usage ("benefitId", "usageTimestamp");

-- available_benefits: a person's latest use of a benefit
create index concurrently if not exists benefit_usage_person_id_benefit_id_usage_timestamp_idx
on benefit_usage ("personId", "benefitId", "usageTimestamp");
