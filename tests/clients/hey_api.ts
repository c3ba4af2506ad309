import { client } from './client/client.gen.js';
import { availableBenefits, inactivityPeriods, topBenefits } from './client/index.js';
import type { AvailableBenefit, ProblemType, Recurrence, VenueTopBenefits } from './client/index.js';

const rest: Record<Recurrence, string> = { day: '24 hours', week: '7 days', month: '30 days' };
const usages = (venue: VenueTopBenefits) => venue.topBenefits180Days.map((benefit) => benefit.usageCount);
const line = (benefit: AvailableBenefit) => `${benefit.title}, every ${rest[benefit.recurrence]}`;
const missing: ProblemType = '/docs/problems/entity-not-found';

client.setConfig({ baseUrl: 'http://127.0.0.1:8000' });
const top = await topBenefits();
const available = await availableBenefits({ path: { venueId: 1 }, query: { personId: 1 } });
const inactive = await inactivityPeriods({ path: { venueId: 99 } });
console.log(JSON.stringify(top.data?.map(usages)), available.data?.map(line));
if (inactive.error?.type === missing) console.log(inactive.error.parameter, inactive.error.detail);
