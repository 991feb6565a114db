-- Until when somebody is at a delivery; NULL: nobody is. `due` alone does not tell an attempt that is under way from a
-- pause after one that failed, and who has a delivery tried anew must not have it brought out twice at once.
ALTER TABLE holdfast."Delivery" ADD leased_until timestamptz;
