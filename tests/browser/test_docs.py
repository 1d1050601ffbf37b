"""The API's documentation in a real browser, which may load nothing from elsewhere."""

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from cli.stack import Stack


def test_the_documentation_comes_from_the_service_alone(stack: Stack, browser: Chrome) -> None:
    browser.get(f"{stack.api_url}/docs")
    WebDriverWait(browser, 60).until(lambda chrome: chrome.find_elements(By.CSS_SELECTOR, ".opblock"))
    told = browser.find_element(By.TAG_NAME, "body").text
    assert "/v1/images/generations" in told
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {f"{stack.api_url}/docs/swagger-ui.css", f"{stack.api_url}/openapi.json"} <= set(loaded)
    assert [name for name in loaded if not name.startswith((stack.api_url, "data:"))] == []
    assert browser.get_log("browser") == []  # nor was anything refused
