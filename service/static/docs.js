// The OpenAPI document for people: every route with its input and answers. Needs no other server.

// `document` names the OpenAPI document below, so the page's own is `window.document`.
function element(tag, text, className, ...children) {
  const made = window.document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A schema in a few words: its type, choices and bounds. */
function typeOf(schema, document) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map((option) => typeOf(option, document)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.prefixItems) return `[${schema.prefixItems.map((item) => typeOf(item, document)).join(", ")}]`;
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {}, document)}`;
  const bounds = [
    ["minimum", "≥"], ["maximum", "≤"], ["exclusiveMinimum", ">"], ["maxLength", "at most"],
  ].filter(([key]) => key in schema).map(([key, sign]) => `${sign} ${schema[key]}`);
  return [schema.format ?? schema.type ?? "anything", ...bounds].join(" ");
}

function defaultOf(schema) {
  return (schema.default ?? null) === null ? "" : `Default ${JSON.stringify(schema.default)}`;
}

function definitions(rows) {
  const list = element("dl");
  for (const [name, text] of rows) list.append(element("dt", name), element("dd", text));
  return list;
}

function fields(properties, document) {
  return definitions(
    Object.entries(properties).map(([name, schema]) => [
      name,
      [typeOf(schema, document), defaultOf(schema), schema.description].filter(Boolean).join(". "),
    ]),
  );
}

function inputs({ requestBody, parameters = [] }, document) {
  const parts = [];
  const inPath = parameters.filter((parameter) => parameter.in === "path");
  const inQuery = parameters.filter((parameter) => parameter.in === "query");
  for (const [title, list] of [["In the path", inPath], ["In the query", inQuery]]) {
    if (!list.length) continue;
    const rows = list.map(({ name, schema, description }) => [name, { ...schema, description }]);
    parts.push(element("h3", title), fields(Object.fromEntries(rows), document));
  }
  for (const [type, { schema }] of Object.entries(requestBody?.content ?? {})) {
    parts.push(element("h3", `Body of type ${type}`));
    parts.push(schema.properties ? fields(schema.properties, document) : element("p", "the image file itself", "hint"));
  }
  return parts;
}

function outputs({ responses }, document) {
  const rows = Object.entries(responses).map(([status, { description, content = {} }]) => {
    const kinds = Object.entries(content).map(([type, { schema }]) =>
      schema?.$ref ? `${type} (${typeOf(schema, document)})` : type,
    );
    return [status, [description, kinds.join(", ")].filter(Boolean).join(": ")];
  });
  return [element("h3", "Answers"), definitions(rows)];
}

function routes(document) {
  return Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) =>
      element(
        "section", "", "card",
        element("h2", "", "", element("span", method.toUpperCase(), "method"), path),
        element("p", operation.description ?? operation.summary),
        ...inputs(operation, document),
        ...outputs(operation, document),
      ),
    ),
  );
}

function schemas(document) {
  return Object.entries(document.components.schemas).map(([name, schema]) =>
    element(
      "section", "", "card",
      element("h2", name),
      element("p", schema.description ?? "", "hint"),
      fields(schema.properties ?? {}, document),
    ),
  );
}

const page = window.document.getElementById("doc");
try {
  const response = await fetch("openapi.json");
  const openapi = await response.json();
  page.replaceChildren(
    element("h1", `${openapi.info.title} ${openapi.info.version}`),
    element("p", openapi.info.description, "hint"),
    ...routes(openapi),
    element("h1", "Schemas"),
    ...schemas(openapi),
  );
} catch {
  page.replaceChildren(element("p", "The description could not be read; is the server running?", "problem"));
}
