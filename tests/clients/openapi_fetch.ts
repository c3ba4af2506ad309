import createClient from 'openapi-fetch';
import type { AvailableBenefit, paths, ProblemType, Recurrence, VenueTopBenefits } from './api.js';

const rest: Record<Recurrence, string> = { day: '24 hours', week: '7 days', month: '30 days' };
const usages = (venue: VenueTopBenefits) => venue.topBenefits180Days.map((benefit) => benefit.usageCount);
const line = (benefit: AvailableBenefit) => `${benefit.title}, every ${rest[benefit.recurrence]}`;
const missing: ProblemType = '/docs/problems/entity-not-found';

const api = createClient<paths>({ baseUrl: 'http://127.0.0.1:8000' });
const params = { path: { venueId: 1 }, query: { personId: 1 } };
const top = await api.GET('/venues/top-benefits');
const available = await api.GET('/venues/{venueId}/available-benefits', { params });
const inactive = await api.GET('/venues/{venueId}/inactivity-periods', { params: { path: { venueId: 99 } } });
console.log(JSON.stringify(top.data?.map(usages)), available.data?.map(line));
if (inactive.error?.type === missing) console.log(inactive.error.parameter, inactive.error.detail);
