import { audit, expect, open, test } from "./fixtures";

test("a form made of the schema is filled in, sent, and answered", async ({ page }) => {
  await open(page, "#/models/penguins/try");
  await page.getByLabel("island").fill("Biscoe");
  await page.getByLabel("bill_length_mm").fill("46.1");
  await page.getByLabel("bill_depth_mm").fill("13.2");
  await page.getByLabel("flipper_length_mm").fill("211");
  await page.getByLabel("body_mass_g").fill("4500");
  await page.getByLabel("sex").fill("");
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.locator(".answer-label")).toHaveText("Gentoo");
  await expect(page.getByRole("img", { name: /^Time by stage: .*Inference/ })).toBeVisible();
  await page.getByText("The whole answer").click();
  await page.getByText("The same with curl").click();
  await expect(page.locator("main")).toContainText("/v1/models/penguins/versions/2:predict");
  await audit(page);

  await page.getByRole("button", { name: "JSON", exact: true }).click();
  await expect(page.getByLabel("The instance as JSON")).toHaveValue(/"island": "Biscoe"/);
  await expect(page.getByLabel("The instance as JSON")).toHaveValue(/"sex": null|^(?!.*"sex")/s);
  await page.getByLabel("The instance as JSON").fill("{");
  await expect(page.locator("main")).toContainText("Not JSON yet");
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.locator("main")).toContainText("This is not JSON");
  await page.getByRole("button", { name: "Fill in the example" }).click();
  await page.getByRole("button", { name: "Form", exact: true }).click();
  await expect(page.getByLabel("island")).toHaveValue("Dream");
});

test("what the model cannot take is shown with the place of the mistake", async ({ page }) => {
  await open(page, "#/models/penguins/try");
  await page.getByLabel("body_mass_g").fill("heavy");
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.getByRole("alert")).toContainText("body_mass_g");
  await audit(page);
});

test("numbers in a square are a picture to draw on", async ({ page }) => {
  await open(page, "#/models/digits/try");
  const json = page.getByLabel("The instance as JSON");
  await page.getByRole("button", { name: "Clear" }).click();
  await expect(json).toHaveValue(/^\[[0, \n]*\]$/);
  const box = (await page.locator("canvas.pixels").boundingBox())!;
  await page.mouse.move(box.x + box.width * 0.5, box.y + 8);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + box.height - 8, { steps: 16 });
  await page.mouse.up();
  await expect(json).toHaveValue(/16/);
  await page.getByRole("button", { name: "Version 1" }).click();
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.locator(".answer-label")).toHaveText(/^[0-9]$/);
});

test("a text is typed as it is, and a file is chosen", async ({ page }) => {
  const schema = (instance: unknown, example: unknown) => ({ name: "digits", version: 2, instance, prediction: {}, example: { instances: [example] } });
  let body = schema({ type: "string" }, "a good day");
  let sent: unknown;
  await page.route("**/versions/2/schema", (route) => route.fulfill({ json: body }));
  await page.route("**/versions/2/try", (route) => {
    sent = route.request().postDataJSON();
    return route.fulfill({ json: { predictions: [{ value: 0.25 }], model: { name: "digits", version: 2 }, prediction_ids: ["EQ"] } });
  });
  await open(page, "#/models/digits/try");
  await page.getByLabel("Text").fill('a "bad" one');
  await audit(page);
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.locator(".answer-label")).toHaveText("0.25");
  expect(sent).toEqual({ instances: ['a "bad" one'] });

  body = schema({ type: "object", properties: { b64: { type: "string", contentEncoding: "base64" } }, required: ["b64"] }, { b64: "AAAA" });
  await page.reload();
  await page.getByLabel("b64").setInputFiles({ name: "cat.png", mimeType: "image/png", buffer: Buffer.from("cat") });
  await expect(page.locator("main")).toContainText("3 bytes are chosen");
  await audit(page);
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.locator(".answer-label")).toBeVisible();
  expect(sent).toEqual({ instances: [{ b64: "Y2F0" }] });
});
