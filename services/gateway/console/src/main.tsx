import { render } from "preact";
import { App } from "./app";
import { startAccount } from "./lib/account";
import { startRouter } from "./lib/router";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/pages.css";

const root = document.getElementById("app");
if (root === null) throw new Error("index.html has no #app");
startRouter();
void startAccount();
render(<App />, root);
