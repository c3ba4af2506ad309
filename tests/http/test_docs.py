"""The documentation page in a real browser, without access to other hosts."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import presence_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

from api.app import REPORTS
from tests.faults.test_nginx import AROUND
from tests.support.daemon import Daemon
from tests.support.machine import missing
from tests.support.service import ApiProcess

SWITCHES = [
    *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-dev-shm-usage'),
    *('--no-first-run', '--disable-background-networking', '--disable-component-update'),
    *('--disable-sync', '--window-size=1400,2000'),
]


@pytest.fixture(scope='module')
def browser() -> Iterator[webdriver.Chrome]:
    """Return a headless Chromium that records the log and the requests of its pages."""
    chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not (chromium and driver):
        missing('no chromium and chromedriver (Debian: apt install chromium-driver)')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for switch in [*SWITCHES, f'--user-data-dir={profile}']:
            options.add_argument(switch)
        chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
        yield chrome
        chrome.quit()


def failed_requests(browser: webdriver.Chrome, origin: str) -> list[str]:
    """Return the requests of the page that failed or went to other hosts."""
    urls, failed = {}, set()
    for entry in browser.get_log('performance'):
        event = json.loads(entry['message'])['message']
        parameters = event['params']
        id_ = parameters.get('requestId')
        if event['method'] == 'Network.requestWillBeSent':
            # the browser's own pages send requests too
            if parameters['documentURL'].startswith(origin):
                urls[id_] = parameters['request']['url']
        elif event['method'] == 'Network.loadingFailed' or (
            event['method'] == 'Network.responseReceived'
            and parameters['response']['status'] >= 400
        ):
            failed.add(id_)
    assert len(urls) > 5
    return [u for i, u in urls.items() if i in failed or not u.startswith((origin, 'data:'))]


@pytest.fixture(scope='module')
def prefixed(api: ApiProcess) -> Iterator[str]:
    """Return the URL of a path prefix, below which nginx serves the API."""
    with Daemon('nginx', 'nginx-light') as nginx:
        block = f'server {{ listen 127.0.0.1:{nginx.port};'
        block += f' location /benefits/ {{ proxy_pass {api.url}/; }} }}'
        (nginx.folder / 'conf').write_text(AROUND.format(folder=nginx.folder, block=block))
        nginx.start('-c', str(nginx.folder / 'conf'), '-e', 'stderr')
        yield f'http://127.0.0.1:{nginx.port}/benefits'


def test_links_work_below_a_path_prefix(prefixed: str) -> None:
    for entrance in ('', '/'):
        page = httpx.get(
            prefixed + entrance, headers={'Accept': 'text/html'}, follow_redirects=True
        )
        assert (page.status_code, str(page.url)) == (200, f'{prefixed}/docs')
    links = httpx.get(f'{prefixed}/').json()
    report = links['reports'][1].format(venueId=1) + '?personId=1'
    for link in (links['documentation'], links['openapi'], report):
        assert httpx.get(urljoin(f'{prefixed}/', link)).status_code == 200, link


@pytest.mark.slow
@pytest.mark.parametrize('is_prefixed', [False, True])
def test_page_shows_the_reports_and_tries_them_out(
    browser: webdriver.Chrome, api: ApiProcess, prefixed: str, is_prefixed: bool
) -> None:
    base = prefixed if is_prefixed else api.url
    wait = WebDriverWait(browser, 30)
    browser.get(f'{base}/')
    assert browser.current_url == f'{base}/docs'
    for path in [report.path for report in REPORTS]:
        place = f'//div[contains(@class, "opblock-get") and .//*[@data-path="{path}"]]'
        block = wait.until(presence_of_element_located((By.XPATH, place)))

        def shown(css: str, block: WebElement = block) -> WebElement:
            return wait.until(lambda _: next(iter(block.find_elements(By.CSS_SELECTOR, css)), None))

        block.find_element(By.CLASS_NAME, 'opblock-summary-control').click()
        browser.execute_script('arguments[0].click()', shown('button.execute'))
        answer = shown('.live-responses-table .highlight-code').text
        assert '"venueId"' in answer or '"benefitId"' in answer
        assert shown('.live-responses-table tbody .response-col_status').text.startswith('200')
        # empty fields are not sent
        sent = shown('.request-url .microlight').text
        assert sent == base + path.format(venueId=1) + '?personId=1' * ('available' in path)
    severe = [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']
    assert severe == []
    assert failed_requests(browser, base) == []


@pytest.mark.slow
@pytest.mark.parametrize('hashes', ['', '0' * 64])
def test_page_shows_locks_where_there_are_tokens(
    browser: webdriver.Chrome, sample_url: str, start_api: Callable[..., ApiProcess], hashes: str
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_TOKEN_SHA256=hashes)
    browser.get(f'{api.url}/docs')
    place = (By.CSS_SELECTOR, '.opblock .authorization__btn')
    lock = WebDriverWait(browser, 30).until(presence_of_element_located(place))
    assert lock.is_displayed() == bool(hashes)


def test_files_of_the_page_have_etags_and_ranges(api: ApiProcess) -> None:
    path = '/docs/static/swagger-ui.css'
    whole = api.get(path)
    assert whole.status_code == 200
    assert whole.headers['content-type'] == 'text/css'
    again = api.get(path, headers={'If-None-Match': whole.headers['etag']})
    assert (again.status_code, again.content) == (304, b'')
    part = api.get(path, headers={'Range': 'bytes=10-19'})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    beyond = api.get(path, headers={'Range': f'bytes={len(whole.content)}-'})
    assert beyond.status_code == 416
    assert beyond.headers['content-range'] == f'bytes */{len(whole.content)}'
    assert beyond.json()['type'] == '/docs/problems/range-not-satisfiable'
    assert api.get('/docs/static/missing.css').status_code == 404
