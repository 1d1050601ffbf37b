// Prints what the validator of a package says against an OpenAPI document, as a JSON list: validate.mjs PACKAGE FILE
import { readFile } from "node:fs/promises";
import { validate } from "@scalar/openapi-parser";
import { Validator } from "@seriousme/openapi-schema-validator";

const validators = {
  "@scalar/openapi-parser": validate,
  "@seriousme/openapi-schema-validator": (document) => new Validator().validate(document),
};
const [name, file] = process.argv.slice(2);
const { valid, errors } = await validators[name](JSON.parse(await readFile(file, "utf8")));
console.log(JSON.stringify(valid ? [] : errors));
