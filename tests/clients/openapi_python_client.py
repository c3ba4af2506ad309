"""The reports and an error, with the client that openapi-python-client generates."""

from membership_benefits_api_client import Client
from membership_benefits_api_client.api.reports import (
    available_benefits,
    inactivity_periods,
    top_benefits,
)
from membership_benefits_api_client.models import Problem, ProblemType

with Client('http://127.0.0.1:8000') as api:
    top = top_benefits.sync(client=api)
    available = available_benefits.sync(1, person_id=1, client=api)
    inactive = inactivity_periods.sync(99, client=api)
if isinstance(top, list):
    print([benefit.usage_count for venue in top for benefit in venue.top_benefits_180_days])
if isinstance(available, list):
    print([(benefit.title, benefit.recurrence) for benefit in available])
if isinstance(inactive, Problem) and inactive.type_ == ProblemType.ENTITY_NOT_FOUND:
    print(inactive.parameter, inactive.detail)
