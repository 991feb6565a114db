-- What completed runs leave in the persistent store.

SELECT holdfast.manage_kind('export', 'Export', false);

-- What is to be brought to external systems. The document never changes; how far it is stands beside it, by L3's clock.
SELECT holdfast.manage_kind('delivery', 'Delivery', false);
