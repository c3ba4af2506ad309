"""The OpenAPI document tells the truth about the routes, the problems and every answer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from falcon.inspect import inspect_routes
from openapi_spec_validator import validate

from api import OPENAPI
from api.app import REPORTS, create_app
from api.config import Settings
from api.http.parameters import BIGINT_MAX, TIMESTAMP
from api.http.problems import PROBLEMS, TYPE_PREFIX
from tests.pages import tables
from tests.support import ApiProcess

DOCUMENT = json.loads(OPENAPI.read_text())


def test_document_is_served_as_it_stands(api: ApiProcess) -> None:
    answer = api.get('/openapi.json')
    assert answer.headers['content-type'] == 'application/json'
    assert answer.content == OPENAPI.read_bytes()


def test_document_is_valid_openapi() -> None:
    assert DOCUMENT['openapi'].startswith('3.1.')
    validate(DOCUMENT)


def test_routes_and_document_agree() -> None:
    app = create_app(Settings(database_url='host=/nowhere'))
    routes = {route.path for route in inspect_routes(app)} - {'/docs/', '/docs/static/{name}'}
    kinds = {TYPE_PREFIX + kind for kind in PROBLEMS}
    assert kinds < routes
    assert routes - kinds | {TYPE_PREFIX + '{kind}'} == set(DOCUMENT['paths'])
    assert {report.path for report in REPORTS} < routes


def test_every_kind_of_problem_is_documented_as_it_is() -> None:
    contents = [
        response['content']['application/problem+json']
        for response in DOCUMENT['components']['responses'].values()
        if 'content' in response
    ]
    examples = [
        example['value']
        for content in contents
        for example in content.get('examples', {'only': {'value': content.get('example')}}).values()
    ]
    documented = {
        example['type'].rsplit('/', 1)[1]: (example['status'], example['title'])
        for example in examples
    }
    assert documented == {kind: row[:2] for kind, row in PROBLEMS.items()}
    kinds = list(PROBLEMS)
    assert DOCUMENT['components']['parameters']['kind']['schema']['enum'] == kinds
    types = DOCUMENT['components']['schemas']['ProblemType']['enum']
    assert types == [f'/docs/problems/{kind}' for kind in kinds]


def test_limits_and_patterns_are_those_of_the_code() -> None:
    parameters = DOCUMENT['components']['parameters']
    assert parameters['venueId']['schema']['maximum'] == BIGINT_MAX
    assert parameters['personId']['schema']['maximum'] == BIGINT_MAX
    assert parameters['timestamp']['schema']['pattern'] == f'^{TIMESTAMP.pattern}$'


def test_examples_are_ascii_for_old_shells_and_work_on_the_sample_data(api: ApiProcess) -> None:
    for path in [report.path for report in REPORTS]:
        for example in DOCUMENT['components']['parameters']['timestamp']['examples'].values():
            answer = api.get(
                path.replace('{venueId}', '1'),
                params={'timestamp': example['value']}
                | ({'personId': 1} if 'available' in path else {}),
            )
            assert answer.status_code == 200


@pytest.mark.parametrize('kind', PROBLEMS)
def test_type_of_a_problem_leads_to_its_meaning(api: ApiProcess, kind: str) -> None:
    answer = api.get(f'/docs/problems/{kind}')
    status, title, meaning, *_ = PROBLEMS[kind]
    assert answer.json() == {
        'type': f'/docs/problems/{kind}',
        'title': title,
        'status': status,
        'meaning': meaning,
    }


def test_table_of_problems_is_that_of_the_code() -> None:
    rows = [[str(row[0]), f'`{kind}`', row[2]] for kind, row in PROBLEMS.items()]
    assert tables()['status'] == rows


def test_running_server_keeps_to_the_document(api: ApiProcess, tmp_path: Path) -> None:
    finished = subprocess.run(
        [
            *[f'{sys.prefix}/bin/schemathesis', 'run', f'{api.url}/openapi.json'],
            *['--checks', 'all', '--mode', 'all', '--seed', '1', '--max-examples', '30'],
            *['--phases', 'examples,coverage,fuzzing,stateful', '--no-color'],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    # schemathesis leaves out the document's own path
    assert f'Tested: {len(DOCUMENT["paths"]) - 1}\n' in finished.stdout
