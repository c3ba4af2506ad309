"""The OpenAPI document matches the routes, the problems and every response."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from falcon.inspect import inspect_routes
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from api import OPENAPI
from api.app import REPORTS, create_app
from api.config import Settings
from api.http.parameters import BIGINT_MAX
from api.http.problems import PROBLEMS, TYPE_PREFIX
from api.http.reports import Report
from tests.pages import BASE, names, tables
from tests.support.project import ROOT
from tests.support.service import ApiProcess
from tests.test_readme import answers_in_the_readme

DOCUMENT = json.loads(OPENAPI.read_text())
# a year, a month with its longest days, a time up to nanoseconds, an offset
TIMESTAMP = (
    r'(000[2-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-'
    r'((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)'
    r'|02-(0[1-9]|[12][0-9]))'
    r'([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{1,9})?)?'
    r'([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?'
)


def test_document_is_served_as_it_stands(api: ApiProcess) -> None:
    answer = api.get('/openapi.json')
    assert answer.headers['content-type'] == 'application/json'
    assert answer.content == OPENAPI.read_bytes()


def test_version_is_that_of_the_changelog() -> None:
    [newest, *_] = re.findall(r'^## (.+)$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest == DOCUMENT['info']['version']


def test_document_is_valid_openapi() -> None:
    assert DOCUMENT['openapi'].startswith('3.1.')
    validate(DOCUMENT)


def test_routes_and_document_agree() -> None:
    app = create_app(Settings(database_url='host=/nowhere'))
    routes = {route.path for route in inspect_routes(app)}
    kinds = {TYPE_PREFIX + kind for kind in PROBLEMS}
    assert kinds < routes
    lacking = routes - kinds - set(DOCUMENT['paths'])
    assert not lacking, f'api/openapi.json lacks {lacking}'
    assert routes - kinds | {TYPE_PREFIX + '{kind}'} == set(DOCUMENT['paths'])
    assert {report.path for report in REPORTS} < routes


def test_kinds_of_problems_are_those_of_the_code() -> None:
    types = DOCUMENT['components']['schemas']['ProblemType']
    assert types['enum'] == [TYPE_PREFIX + kind for kind in PROBLEMS]
    names = [name.lower().replace('_', '-') for name in types['x-enum-varnames']]
    assert names == list(PROBLEMS)


def test_examples_of_answers_fit_their_schemas() -> None:
    document = exact()
    checked = 0
    for item in document['paths'].values():
        for content in item['get']['responses']['200']['content'].values():
            values = [each['value'] for each in content.get('examples', {}).values()]
            values += [content['example']] if 'example' in content else []
            for value in values:
                Draft202012Validator(document | content['schema']).validate(value)
                checked += 1
    assert checked >= len(REPORTS)


def test_examples_of_answers_are_those_of_the_readme() -> None:
    for (url, answer), report in zip(answers_in_the_readme(), REPORTS, strict=True):
        path = url.removeprefix(BASE).partition('?')[0].replace('/1/', '/{venueId}/')
        assert path == report.path
        [content] = DOCUMENT['paths'][path]['get']['responses']['200']['content'].values()
        shown = json.loads(answer.replace(', ...]', ']').replace('...', ''))
        assert content['examples']['sample']['value'] == shown


def test_limits_are_those_of_the_code() -> None:
    assert DOCUMENT['components']['schemas']['Id']['maximum'] == BIGINT_MAX


@pytest.mark.parametrize('report', REPORTS, ids=lambda report: report.query)
def test_timestamps_in_the_description_work(api: ApiProcess, report: Report) -> None:
    shown = names(DOCUMENT['components']['parameters']['timestamp']['description'])
    assert len(shown) == 4
    person = {'personId': 1} if 'available' in report.path else {}
    for timestamp in shown:
        path = report.path.replace('{venueId}', '1')
        assert api.get(path, params={'timestamp': timestamp} | person).status_code == 200


def test_document_allows_what_a_later_version_may_add() -> None:
    problem = DOCUMENT['components']['responses']['NotFound']['content']
    now = {
        'Problem': problem['application/problem+json']['example'],
        'UsedBenefit': {'benefitId': 1, 'usageCount': 1},
    }
    for schema, added in [
        ('Problem', {'added': 1}),
        ('Problem', {'type': '/docs/problems/added'}),
        ('UsedBenefit', {'added': 1}),
    ]:
        for document, allows in [(DOCUMENT, True), (exact(), False)]:
            validator = Draft202012Validator(document | {'$ref': f'#/components/schemas/{schema}'})
            assert validator.is_valid(now[schema])
            assert validator.is_valid(now[schema] | added) == allows


def test_type_of_a_problem_leads_to_its_meaning(api: ApiProcess) -> None:
    for kind, (status, title, meaning, *_) in PROBLEMS.items():
        told = {'type': TYPE_PREFIX + kind, 'title': title, 'status': status, 'meaning': meaning}
        assert api.get(f'/docs/problems/{kind}').json() == told


def test_table_of_problems_is_that_of_the_code() -> None:
    rows = [[str(row[0]), f'`{kind}`', row[2]] for kind, row in PROBLEMS.items()]
    assert tables()['status'] == rows


def exact() -> dict[str, Any]:
    """Return the document without the additions that it permits later versions."""
    document = copy.deepcopy(DOCUMENT)
    components = document['components']
    for schema in components['schemas'].values():
        if 'properties' in schema:
            schema['additionalProperties'] = False
    components['schemas']['Problem']['properties']['type'] = {
        '$ref': '#/components/schemas/ProblemType'
    }
    components['parameters']['kind']['schema']['enum'] = list(PROBLEMS)
    # every format that is accepted, and no time outside the calendar
    components['parameters']['timestamp']['schema'] = {
        'type': 'string',
        'pattern': f'^{TIMESTAMP}$',
    }
    operations = [item['get']['responses'] for item in document['paths'].values()]
    told = {status for responses in operations for status in responses}
    others = {str(row.status) for row in PROBLEMS.values()} - told
    for responses in operations:
        responses.update(dict.fromkeys(others, responses.pop('default')))
    return document


@pytest.mark.slow
def test_running_server_keeps_to_the_document_and_adds_nothing(
    api: ApiProcess, tmp_path: Path
) -> None:
    (tmp_path / 'exact.json').write_text(json.dumps(exact()))
    finished = subprocess.run(
        [
            *[f'{sys.prefix}/bin/schemathesis', 'run', 'exact.json', '--url', api.url],
            *['--checks', 'all', '--mode', 'all', '--seed', '1', '--max-examples', '30'],
            *['--phases', 'examples,coverage,fuzzing,stateful', '--no-color'],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    assert f'Tested: {len(DOCUMENT["paths"])}\n' in finished.stdout
